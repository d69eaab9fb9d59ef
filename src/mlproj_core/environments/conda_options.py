"""What becomes of every setting of conda that mlproj makes environments without: kept, harmless or refused.

The settings are those of conda 4.6 to 26 (https://docs.conda.io/projects/conda/en/stable/configuration.html) and
`mirrored_channels` of mamba. One that changes what is installed must never be lost in silence.
"""

from __future__ import annotations

from typing import Any, Final

__all__ = ["ALIASES", "HARMLESS", "LISTS", "MAPS", "REFUSED", "SCALARS"]

LISTS: Final = {
    "channels": ",",
    "default_channels": ",",
    "allowlist_channels": ",",
    "denylist_channels": ",",
    "create_default_packages": "&",
    "pinned_packages": "&",
    "disallowed_packages": "&",
    "track_features": ",",
    "repodata_fns": ",",
    "channel_settings": "",
}
"""Lists, which add up over the files, and what stands between their items in a variable."""

MAPS: Final = frozenset(
    {
        "custom_channels", "custom_multichannels", "exclude_newer_package", "mirrored_channels",
        "override_virtual_packages", "proxy_servers",
    }
)  # fmt: skip
"""Mappings, which are merged over the files; conda knows no variables for them."""

SCALARS: Final = frozenset(
    {
        "add_pip_as_python_dependency", "channel_alias", "channel_priority", "client_ssl_cert",
        "client_ssl_cert_key", "deps_modifier", "exclude_newer", "ignore_pinned", "use_local", "offline",
        "remote_max_retries", "remote_read_timeout_secs", "restore_free_channel", "ssl_verify", "subdir",
        "unsatisfiable_hints",
    }
)  # fmt: skip
"""Single values, of which the last one counts."""

ALIASES: Final = {
    "channel": "channels",
    "whitelist_channels": "allowlist_channels",
    "verify_ssl": "ssl_verify",
    "client_cert": "client_ssl_cert",
    "client_cert_key": "client_ssl_cert_key",
    "disallow": "disallowed_packages",
    "cooldown": "exclude_newer",
    "cooldown_exclude": "exclude_newer_package",
    "virtual_packages": "override_virtual_packages",
}
"""Other names that conda knows for the same settings."""

REFUSED: Final[dict[str, tuple[tuple[Any, ...], str]]] = {
    "client_ssl_cert": ((None, ""), "py-rattler presents no certificates of clients"),
    "deps_modifier": (("not_set", "none", ""), "an environment is made with all its dependencies"),
    "disallowed_packages": (((),), "py-rattler cannot forbid packages; use `pinned_packages` or the specifications"),
    "exclude_newer_package": (({},), "py-rattler knows one such limit for all packages: `exclude_newer`"),
    "override_virtual_packages": (({},), "set variables such as CONDA_OVERRIDE_CUDA"),
    "restore_free_channel": ((False,), "name https://repo.anaconda.com/pkgs/free among the channels"),
    "repodata_fns": (
        ((), ("current_repodata.json", "repodata.json"), ("repodata.json",)),
        "py-rattler always reads repodata.json",
    ),
    "use_local": ((False,), "name the directory of the channel among the channels"),
    "track_features": (((),), "py-rattler knows no features"),
}
"""Settings that change what is installed and cannot be kept: the values that change nothing, and what to do."""

HARMLESS: Final = frozenset(
    {
        # How conda talks and asks, and what it does to shells and prompts.
        "always_yes", "auto_activate", "auto_activate_base", "auto_stack", "auto_update_conda", "changeps1",
        "console", "debug", "default_activation_env", "dev", "dry_run", "environment_specifier", "env_prompt",
        "info", "json", "no_plugins", "notify_outdated_conda", "number_channel_notices", "plugins", "prompt",
        "quiet", "reporters", "report_errors", "shortcuts", "shortcuts_only", "show_channel_urls", "trace",
        "verbosity", "yes", "enable_private_envs", "env_spec", "envvars_force_uppercase", "preview",
        "self_update", "verbose", "register_envs", "protect_frozen_envs", "list_fields", "root_prefix",
        "unsatisfiable_hints_check_depth",
        # Where conda keeps things and how it links them; mlproj has places of its own.
        "allow_softlinks", "always_copy", "copy", "root_dir", "softlink", "always_softlink", "croot",
        "bld_path", "envs_dirs", "envs_path", "force_32bit", "no_lock", "number_of_threads", "path_conflict",
        "pkgs_dirs", "target_prefix_override", "download_only", "default_threads", "default_python",
        "execute_threads", "verify_threads", "fetch_threads", "repodata_threads", "rollback_enabled",
        "safety_checks", "extra_safety_checks", "separate_format_cache",
        # Without meaning where an environment is made anew.
        "aggressive_update_packages", "allow_conda_downgrades", "allow_cycles", "clobber", "force",
        "force_reinstall", "force_remove", "pip_interop_enabled", "prefix_data_interoperability",
        "update_modifier", "prune", "non_admin_enabled", "sat_solver", "solver", "solver_ignore_timestamps",
        "experimental", "use_only_tar_bz2", "use_index_cache", "repodata_use_shards", "repodata_use_zst",
        "experimental_solver", "local_repodata_ttl", "no_deps", "use_sharded_repodata",
        # Building and uploading packages.
        "anaconda_upload", "conda_build", "conda-build", "error_upload_url", "subdirs", "export_platforms",
        "extra_platforms", "binstar_upload",
        # Reaching servers: py-rattler has its own, and adds no tokens of anaconda-client.
        "add_anaconda_token", "add_binstar_token", "remote_backoff_factor", "remote_connect_timeout_secs",
        "http_timeout", "anaconda_anon_usage", "migrated_channel_aliases", "migrated_custom_channels",
        "signing_metadata_url_base", "allow_non_channel_urls", "override_channels_enabled",
    }
)  # fmt: skip
"""These change nothing in what is installed."""

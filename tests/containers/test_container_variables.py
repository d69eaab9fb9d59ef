"""What a project and its caller ask for is looked up on the host, and what is secret is kept apart."""

import pytest

from mlproj_core.containers.variables import resolve_environment
from mlproj_core.errors import UserError

HOST = {"AWS_PROFILE": "ml", "TOKEN": "geheim", "EMPTY": ""}


class TestVariables:
    def test_that_the_project_file_defines_are_visible(self):
        found = resolve_environment([("MODE", "fast"), ("LEVEL", "1")], (), HOST)
        assert found.visible == {"MODE": "fast", "LEVEL": "1"}
        assert found.secret == {}

    def test_that_are_copied_from_the_host_are_secret(self):
        found = resolve_environment(["AWS_PROFILE", "EMPTY"], ["TOKEN"], HOST)
        assert found.visible == {}
        assert found.secret == {"AWS_PROFILE": "ml", "EMPTY": "", "TOKEN": "geheim"}

    def test_that_the_caller_defines_are_secret(self):
        assert resolve_environment((), [("KEY", "k")], {}).secret == {"KEY": "k"}

    def test_show_no_secret_when_printed(self):
        found = resolve_environment([("MODE", "fast")], [("KEY", "hush"), "TOKEN"], HOST)
        assert "hush" not in repr(found)
        assert "geheim" not in repr(found)

    def test_of_the_caller_win_over_the_project_s(self):
        found = resolve_environment([("MODE", "fast"), "TOKEN"], [("MODE", "slow"), ("TOKEN", "other")], HOST)
        assert found.visible == {}
        assert found.secret == {"MODE": "slow", "TOKEN": "other"}

    def test_named_twice_have_the_later_value(self):
        assert resolve_environment([("A", "1"), ("A", "2")], (), HOST).visible == {"A": "2"}
        found = resolve_environment([("TOKEN", "1"), "TOKEN"], (), HOST)
        assert (found.visible, found.secret) == ({}, {"TOKEN": "geheim"})
        found = resolve_environment(["TOKEN", ("TOKEN", "1")], (), HOST)
        assert (found.visible, found.secret) == ({"TOKEN": "1"}, {})

    def test_that_are_missing_are_all_named_with_who_asks_for_them(self):
        with pytest.raises(UserError) as refusal:
            resolve_environment(["NOWHERE", "AWS_PROFILE", "NO_MORE"], ["LOST", "LOST", ("A", "hush")], HOST)
        assert str(refusal.value) == (
            "Not set on this host: NOWHERE and NO_MORE, which docker_env.environment of the MLproject copies into the "
            "container; LOST, which docker_args copies into the container. Set them where the run is asked for, or "
            "give them by env_vars."
        )

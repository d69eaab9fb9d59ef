from pathlib import Path

import hydra
from omegaconf import OmegaConf


@hydra.main(version_base=None, config_path=".", config_name="config")
def main(config):
    Path("used.yaml").write_text(OmegaConf.to_yaml(config))


if __name__ == "__main__":
    main()

"""The command: python -m sotglp_jax.main --config=configs/fewshot.py

Flags only; everything heavy is imported after they are known to be sound.
"""

import difflib
from collections.abc import Sequence
from logging import Formatter, LogRecord
from pathlib import Path

from absl import flags, logging
from ml_collections import ConfigDict, config_flags

from sotglp_jax import configs
from sotglp_jax.errors import InputError, run_command

config_flags.DEFINE_config_file(
    "config", help_string="Study and its keys: FILE[:key=value,...], see configs/common.py."
)
flags.DEFINE_string("workdir", "", "Run folder; named after the configuration if not given.")
flags.DEFINE_string(
    "distributed", "", "Several processes: auto (Slurm, TPU, GKE) or HOST:PORT,COUNT,INDEX."
)
flags.DEFINE_bool("yes", False, "Start what configs/reproduce.py plans.")
flags.DEFINE_integer(
    "only", None, "Run this one of a study's runs, counted from 0, and no table.", lower_bound=0
)
flags.DEFINE_enum("mode", "train", ["train", "eval"], "Train (or go on), or evaluate only.")


def parse(argv: list[str], values: flags.FlagValues = flags.FLAGS) -> list[str]:
    """Reads flags into values.

    Args:
      argv: the program's name and its arguments.
      values: get the flags; they define `config`.

    Raises:
      InputError: anything is wrong with the flags.
    """
    argv = ["--help" if argument == "-h" else locate(argument) for argument in argv]
    try:
        rest = values(argv)
        _ = values.config and values.config.keys()  # a failure to load is kept until here
    except flags.Error as error:
        raise InputError(f"{str(error).splitlines()[0]}; --help lists the flags.") from None
    except (AttributeError, KeyError):
        _refuse_key(argv)
        raise
    except OSError as error:
        reason = str(error).splitlines()[-1].strip()
        raise InputError(f"the file that --config names cannot be read: {reason}.") from None
    if rest[1:]:
        raise InputError(f'"{rest[1]}" is no flag: options start with --.')
    if given := values.config and config_flags.get_override_values(values["config"]):
        _check_overrides(given)
    return rest


def locate(argument: str) -> str:
    """An argument; of --config=configs/NAME.py, where no such file is, with the package's own.

    Raises:
      InputError: it names no file.
    """
    flag, _, config = argument.partition("=")
    name, colon, arg = config.partition(":")
    if flag != "--config":
        return argument
    if not name.endswith(".py"):
        raise InputError(f"{argument} is no Python file: configs/fewshot.py is a start.")
    if Path(name).is_file():
        return argument
    own = {f"configs/{x.name}": x for x in Path(configs.__file__).parent.glob("[!_]*.py")}
    if name not in own:
        near = difflib.get_close_matches(name, own, 1)
        listed = ", ".join([*near, *sorted(own.keys() - {*near, "configs/common.py"})])
        raise InputError(f"{argument}: no file {name} is here; the package has {listed}.")
    return f"{flag}={own[name]}{colon}{arg}"


def _refuse_key(argv: Sequence[str]) -> None:
    """Says of the first flag whose key is not there which keys are, the nearest first."""
    config = next(a for a in argv if a.startswith("--config=")).removeprefix("--config=")
    whole = load(config, ())
    for given in (a for a in argv if a.startswith("--config.")):
        part, place = whole, "the configuration"
        path = given.removeprefix("--config.").partition("=")[0].split(".")
        while path and isinstance(part, ConfigDict) and path[0] in part:
            part, place, *path = part[path[0]], *path
        if not path:
            continue
        place = part.name if place == "method" else place
        keys = part.keys() if isinstance(part, ConfigDict) else ()
        near = difflib.get_close_matches(path[0], keys, 1)
        names = [*near, *(name for name in keys if name not in near and name != "name")]
        has = f"it has {', '.join(names)}" if names else "it is a value"
        raise InputError(f"{given}: no `{path[0]}` in {place}; {has}.") from None


def _check_overrides(given: dict) -> None:
    from sotglp_jax.settings import CHOSEN_FIRST

    for key in CHOSEN_FIRST.keys() & given.keys():
        raise InputError(
            f"--config.{key} decides other defaults: choose it as "
            f"--config=FILE:{CHOSEN_FIRST[key]}=VALUE."
        )


def load(config: str, overrides: Sequence[str]) -> ConfigDict:
    """Loads a configuration as the command does.

    Args:
      config: FILE[:key=value,...].
      overrides: --config.KEY=VALUE each.

    Raises:
      InputError: there is no such file, key or value.
    """
    argv, values = ["", f"--config={config}", *overrides], flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
    parse(argv, values)
    return values.config


def main(_: list[str]) -> None:
    """Runs what the flags say."""
    quiet()
    if flags.FLAGS.config is None:
        raise InputError("--config=FILE is missing: configs/fewshot.py is a start.")
    from sotglp_jax import study
    from sotglp_jax.devices import hosts, programs

    programs.keep()
    if flags.FLAGS.distributed:
        hosts.join(flags.FLAGS.distributed)
    arguments = flags.FLAGS.config, flags.FLAGS.workdir, flags.FLAGS.mode
    if flags.FLAGS.only is not None:
        study.run_only(*arguments, flags.FLAGS.only)
    elif flags.FLAGS.config.get("study", {}).get("table") == "report":
        from sotglp_jax import reproduce

        reproduce.reproduce(*arguments, flags.FLAGS.yes)
    elif flags.FLAGS.yes:
        raise InputError("--yes answers configs/reproduce.py alone: leave it out.")
    else:
        launch = study.run_all if "study" in flags.FLAGS.config else study.run_one
        launch(*arguments)


def quiet() -> None:
    """Of the libraries' log, shows warnings alone, without their prefix.

    orbax logs the errors that it raises, which are told once, by the command's end.
    """

    def shown(record: LogRecord) -> bool:
        return not (record.exc_info and "orbax" in Path(record.pathname).parts)

    handler = logging.get_absl_handler()
    handler.addFilter(shown)
    handler.setFormatter(Formatter("%(message)s"))
    logging.set_verbosity(logging.WARNING)


if __name__ == "__main__":
    run_command(main, flags_parser=parse)

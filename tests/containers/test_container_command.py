"""The argv of a container is what bash makes of an entry point's command, with a shell only where one is needed."""

import shlex
import string
import subprocess

import pytest
from docker_world import BARE, SHELL
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mlproj_core.containers.command import OF_THE_SHELL, container_argv

PROGRAM = "program"


def words_of_bash(arguments):
    """What bash makes of the arguments of a program."""
    command = ["bash", "--norc", "-c", f"printf '%s\\0' {PROGRAM} {arguments}"]
    return subprocess.run(command, capture_output=True, check=True).stdout.decode().split("\0")[1:-1]


def is_plain(command):
    return container_argv(command)[0] != "sh"


def run(engine, image, argv):
    """What a container prints, and its exit code."""
    with engine.client() as client:
        container = client.create_container(image, list(argv))
        client.start(container)
        status = client.wait(container)["StatusCode"]
        return client.logs(container, stderr=False).decode(), status


plain_words = st.one_of(
    st.text(string.ascii_letters + string.digits + "äß語_./:,=@%^+-", min_size=1),
    st.text(st.characters(exclude_characters="\0'", exclude_categories=["Cs"])).map(lambda text: f"'{text}'"),
    st.text(st.characters(exclude_characters='\0"$`\\', exclude_categories=["Cs"])).map(lambda text: f'"{text}"'),
    st.characters(exclude_characters="\0\n", exclude_categories=["Cs"]).map(lambda character: f"\\{character}"),
    st.sampled_from(['"\\""', '"\\\\"', "''", '""']),
)
plain_commands = st.lists(
    st.tuples(st.lists(plain_words, min_size=1).map("".join), st.sampled_from([" ", "  ", "\t"])), min_size=1
).map(lambda parts: PROGRAM + " " + "".join(word + space for word, space in parts))

anything = st.text(
    st.one_of(
        st.sampled_from("abc =:/.-+,%@^" + "'\"\\" + "$`;&|<>(){}*?[]~#!\n\t\r"),
        st.characters(exclude_characters="\0", exclude_categories=["Cs"]),
    )
)


class TestAPlainCommand:
    @pytest.mark.parametrize(
        ("command", "argv"),
        [
            ("python train.py --alpha 0.5", ("python", "train.py", "--alpha", "0.5")),
            ("  python\ttrain.py ", ("python", "train.py")),
            ("python train.py --name 'a b' --empty ''", ("python", "train.py", "--name", "a b", "--empty", "")),
            ('python -c "import sys; print(1 > 0)"', ("python", "-c", "import sys; print(1 > 0)")),
            ("Rscript -e 'cat(\"a\\n\")'", ("Rscript", "-e", 'cat("a\\n")')),
            ("python train.py --name=O\\'Brien", ("python", "train.py", "--name=O'Brien")),
            ("./train.sh a,b a=b a:b @x %y ^z", ("./train.sh", "a,b", "a=b", "a:b", "@x", "%y", "^z")),
            ("python train.py --pattern '*.csv' '$HOME'", ("python", "train.py", "--pattern", "*.csv", "$HOME")),
            ("/bin/echo a", ("/bin/echo", "a")),
        ],
    )
    def test_is_run_as_it_is(self, command, argv):
        assert container_argv(command) == argv

    @settings(max_examples=300, deadline=None)
    @given(plain_commands)
    @example("program 'a\nb'")
    @example('program "!x"')
    def test_has_the_words_that_bash_makes_of_it(self, command):
        assert is_plain(command)
        assert container_argv(command) == (PROGRAM, *words_of_bash(command.removeprefix(PROGRAM)))

    @settings(max_examples=500, deadline=None)
    @given(anything)
    @example("a#b")
    @example("a~ ~b")
    @example('"a\\b"')
    @example("a\u00a0b\u2003c")
    @example("a\x0bb\x0cc")
    @example("\x01\x7f")
    def test_is_never_what_bash_would_read_otherwise(self, arguments):
        command = f"{PROGRAM} {arguments}"
        if is_plain(command):
            assert container_argv(command) == (PROGRAM, *words_of_bash(arguments))

    @settings(max_examples=100, deadline=None)
    @given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))))
    def test_may_hold_any_value_that_was_quoted(self, values):
        assert container_argv(shlex.join([PROGRAM, *values])) == (PROGRAM, *values)

    def test_needs_no_shell_in_the_image(self, engine):
        assert run(engine, BARE, container_argv("env A='b c' env"))[0].endswith("A=b c\n")


class TestACommandForAShell:
    @pytest.mark.parametrize(
        "command",
        [
            "python train.py > log", "python a.py && python b.py", "python a.py; python b.py", "python a.py | tee log",
            "python train.py $HOME", 'python train.py "$HOME"', "python train.py `date`", "python train.py $(date)",
            "python train.py *.csv", "python train.py data?", "python train.py [ab]", "python train.py {a,b}",
            "python train.py ~/data", "python train.py # quickly", "python a.py\npython b.py", "(python a.py)",
            "ALPHA=1 python train.py", "ALPHA= python train.py", "cd src", "echo hello", "exec python train.py",
            "! true", "if true", "'cd' src", "\\cd src", "time python train.py", ". setup.sh", "%1",
            "python train.py \\\n --alpha 1", 'python train.py "a\\b"', "python 'train.py", 'python "train.py',
            "python train.py \\", "''", "", " ", "python a.py & ", "python train.py <<< x", "python train.py\r",
        ],
    )  # fmt: skip
    def test_is_given_to_one(self, command):
        assert container_argv(command)[:2] == ("sh", "-c")
        assert container_argv(command)[3] == command

    def test_is_any_that_starts_with_a_word_of_bash(self):
        words = subprocess.run(["bash", "-c", "compgen -bk"], capture_output=True, text=True, check=True).stdout.split()
        assert len(words) > 60
        assert set(words) <= OF_THE_SHELL

    @pytest.mark.parametrize(
        "command",
        [
            "echo a > /tmp/x; cat /tmp/x; exit 3",
            "A=1; B=(x y z); echo ${B[1]} $((A + 1)) {1..3}",  # bash only
            "echo \"$HOME\" '$HOME' ~ | tr a-z A-Z",
            "for i in 1 2; do echo $i; done && false",
            "VALUE='a b' printenv VALUE",
            "echo $0 $#",
            "no-such-program --alpha 1 | cat; exit ${PIPESTATUS[0]}",
            "[[ abc == a* ]] && echo yes",
        ],
    )
    def test_is_run_by_the_bash_of_an_image(self, engine, command):
        assert container_argv(command)[0] == "sh"
        assert run(engine, SHELL, container_argv(command)) == run(engine, SHELL, ["bash", "-c", command])

    def test_is_run_by_sh_where_there_is_no_bash(self, engine):
        without = ["sh", "-c", 'rm /bin/bash; exec "$@"', "sh", *container_argv("echo $0; echo a | tr a b; exit 4")]
        assert run(engine, SHELL, without) == ("sh\nb\n", 4)

    def test_leaves_no_shell_behind_that_keeps_signals_from_a_program(self, engine):
        """`bash -c` becomes the last program of a command: the first process of the container is the program."""
        assert run(engine, SHELL, container_argv("exec cat /proc/1/comm")) == ("cat\n", 0)

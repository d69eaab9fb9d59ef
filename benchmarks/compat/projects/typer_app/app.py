from pathlib import Path

import typer

app = typer.Typer()


@app.command()
def greet(names: str, shout: bool = False):
    text = " ".join(f"hello {name}" for name in names.split(","))
    Path("greetings.txt").write_text(text.upper() if shout else text)


@app.command()
def version():
    print("1")


if __name__ == "__main__":
    app()

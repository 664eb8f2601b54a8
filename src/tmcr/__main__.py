"""`python -m tmcr`, the form in which torchrun starts a command on several processes."""

from tmcr.cli.main import run

if __name__ == "__main__":
    run()

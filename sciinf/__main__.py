"""`python -m sciinf` runs the command `sciinf`."""

from sciinf.cli import main

if __name__ == "__main__":
    main()

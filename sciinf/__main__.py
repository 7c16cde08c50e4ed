"""`python -m sciinf`, which is the command `sciinf`."""

from sciinf.cli import main

if __name__ == "__main__":
    main()

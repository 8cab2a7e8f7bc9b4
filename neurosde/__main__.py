"""`python -m neurosde` is the command `neurosde`."""

from neurosde.cli import main

if __name__ == "__main__":
    main()

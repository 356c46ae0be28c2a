"""`python -m ablations`: the command line."""

from ablations.cli import main

if __name__ == "__main__":
    main()

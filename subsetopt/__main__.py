"""`python -m subsetopt` is the command `subsetopt`."""

from subsetopt_cli.main import main

if __name__ == "__main__":
    main()

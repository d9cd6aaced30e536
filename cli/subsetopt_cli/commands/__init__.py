"""One command per file; `subsetopt_cli.main` imports a file when its command is called."""

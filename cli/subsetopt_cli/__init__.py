"""The command line of subsetopt: click commands, one file each, and no numerical code."""

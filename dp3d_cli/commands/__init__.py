"""Top floor: one module per subcommand. Options in, a stage run, an exit status out."""

"""The console command `bnkern`: `main` has the table of its subcommands."""

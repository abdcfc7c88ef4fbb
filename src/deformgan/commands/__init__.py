"""The subcommands: one dataclass each, its fields the options, its ``run`` the work. Heavy imports wait for ``run``."""

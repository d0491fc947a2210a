HELP = "x"
EXAMPLES = ("edgeforge check",)

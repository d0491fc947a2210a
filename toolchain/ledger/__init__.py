"""The quality ledger: after every stage of a recipe what was paid for what was gained.

`entry` is one line of it, `probe` the stage that measures a checkpoint against the original,
`budget` what a build may cost, `keep` writes the lines while a build runs, `file` reads and writes
`ledger.json`.
"""

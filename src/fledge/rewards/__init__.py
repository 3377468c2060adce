"""Rewards: what an answer is worth, as a number.

`record` says what one is, `builtin` has those that are known by name, `file` runs the functions of a user's file in a
process of its own, `trial` tries them before anything is trained on them.
"""

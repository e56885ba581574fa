"""What both sides know: rules, values, ports, settings; nothing here draws, serves or chooses.

`small_artist/` is no code: the weights that are drawn with unless others are named. A training
writes them, and nobody changes them by hand.
"""

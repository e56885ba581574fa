"""How the small artist is made: what it is shown, how it is trained, who judges it."""

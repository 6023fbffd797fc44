"""How documents are shown, a module per verb: `DOCUMENT`, `TITLE`, `blocks`, `frame` and `grid`."""

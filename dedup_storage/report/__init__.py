"""How many bytes a log needs, column by column, and how many it would need stored otherwise."""

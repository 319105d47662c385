"""The files of a run from which it continues: their form, writing, reading, checks."""

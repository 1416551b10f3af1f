"""What each command does, from a recipe to the files of a run folder."""

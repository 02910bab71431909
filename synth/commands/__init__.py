"""What each command does, once its words are understood. Thin: the work is in runners, steps and results."""

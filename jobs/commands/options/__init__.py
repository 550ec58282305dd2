"""What the command line accepts: arguments and options by group of commands. What a command does is imported when called."""

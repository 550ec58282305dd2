"""Values under a settled type: those that have none of their own (JSON, CSV cells, folder names), and INT96."""

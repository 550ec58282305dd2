"""Jobs over a snapshot with every actor and driver killed that can be: the same bits as a calm run (__main__.py)."""

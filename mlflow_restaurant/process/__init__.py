"""Starting, knowing and ending the processes of one home."""

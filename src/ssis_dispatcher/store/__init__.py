"""What has to survive a restart."""

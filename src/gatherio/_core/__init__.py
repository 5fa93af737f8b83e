"""What is in flight, and the handles on it: files, operations, queues, locks, registrations."""

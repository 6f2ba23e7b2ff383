"""Runtime: the executors of users, threads and loops, and which of them an op called here goes to."""

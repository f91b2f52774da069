"""What ckptrun tells: lines on stderr (`speak`) and the run's events (`events`)."""

"""Does transduction pay? Video networks and their rivals on three tasks, small enough for 90 minutes on two cores."""

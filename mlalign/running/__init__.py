"""How a plan becomes finished steps: runs, steps, and the processes and jobs that they are."""

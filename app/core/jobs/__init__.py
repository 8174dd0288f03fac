"""Jobs: work that commits with the data that caused it, and is done afterwards.

A job is a row, written by `JobQueue.enqueue` in the unit of work that wants it done. A worker, in
this process or another, claims the row for a while (its lease), and runs the handler in one unit
of work that deletes the row at its end. So what a handler writes to the database happens exactly
once, and what it does elsewhere at least once.
"""

from app.core.jobs.queue import JobQueue, JobRow, Jobs
from app.core.jobs.routes import Job, JobRoutes, JobRun
from app.core.jobs.runner import JobRunner

__all__ = ["Job", "JobQueue", "JobRoutes", "JobRow", "JobRun", "JobRunner", "Jobs"]

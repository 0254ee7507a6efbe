"""Cells handed to a site's scheduler without a campaign."""

from mspipeline.campaigns.job_shape import PLAIN
from mspipeline.campaigns.scheduler import JobRequest
from mspipeline.campaigns.schedulers import scheduler_named
from mspipeline.campaigns.submission import CellSubmission


def submit_together(site, device, cells, logs, *, name, shape=PLAIN, **more):
    """Hand cells of one shape to the site; their handles."""
    return scheduler_named(site.executor).submit(JobRequest(site, device, name, cells, logs, shape, **more))


def submit(site, device, name, commands, cell_folder, logs):
    """Hand one cell to the site; its handle."""
    return submit_together(site, device, [CellSubmission(name, commands, cell_folder)], logs, name=name)[0]

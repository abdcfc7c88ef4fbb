"""Many registrations: what is to be done, who does it, what became of it, and one page that shows which to look at.

A cohort is a list of pairs. Workers that live long take one pair after another; everything that must survive them lies
as files in the cohort's folder: whoever dies (a worker, the scheduler, the command itself), the next run goes on.
"""

-- What some runs answer to some samples, as they are (query 0).
-- Parameters: $share  [share; default 1]  how many of the samples; which ones is drawn by their ids, the same each time
-- Reads:  compared  (run, row): the runs, and numbers for them
-- Grain: one row a run and sample of the audit pool; no order.
select compared.row, signals.sample_id, signals.member, signals.phi, signals.loss
from signals
join compared on compared.run = signals.run
join samples on samples.sample_id = signals.sample_id and samples.pool = 'audit'
where signals.query = 0 and is_drawn(signals.sample_id, $share)

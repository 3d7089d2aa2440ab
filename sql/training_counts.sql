-- In how many other runs' training sets the target's members are, and how many non-members.
-- Parameters: $target  [run]  the run under attack
--             $every   [whole number; default 1]  1 for all samples, K for those whose number is divisible by K
-- Reads:  fleet_runs (run)  the runs that may be of one fleet with the target
-- Grain: one row a side: own says whether of members; n samples of the audit pool with mean and variance of the count.
with own as (
  select signals.sample_id, bool_or(signals.member) as own
  from signals
  join samples on samples.sample_id = signals.sample_id and samples.pool = 'audit'
  where signals.run = $target and signals.query = 0 and signals.sample_id % $every = 0
  group by signals.sample_id
),
counts as (
  select signals.sample_id, own, count(*) filter (where signals.member) as n_in
  from signals
  join own on own.sample_id = signals.sample_id
  where signals.query = 0 and signals.run in (select run from fleet_runs)
  group by signals.sample_id, own
)
select own,
       count(*)::double as n,
       avg(n_in)::double as mean,
       var_pop(n_in)::double as variance
from counts
group by own

-- For each sample one of the runs on the other side than the target, with it where the target is without it: drawn by
-- numbers that follow from the sample's and the run's alone (statistics/dependence.py has the same).
-- Parameters: $target  [run]  the run under attack
--             $share   [share]  of the samples, those that are drawn
--             $prime, $spread, $drawn  [whole number]  modulus and multipliers of these numbers
-- Reads:  fleet_runs (run, key)  the runs that may be of one fleet with the target
-- Grain: one row a sample of the audit pool that is drawn and has such a run.
with own as (
  select signals.sample_id, bool_or(signals.member) as own,
         (signals.sample_id::bigint + 1) * $spread % $prime as place
  from signals
  join samples on samples.sample_id = signals.sample_id and samples.pool = 'audit'
  where signals.run = $target and signals.query = 0
  group by signals.sample_id
)
select signals.sample_id,
       arg_min(signals.run, own.place * fleet_runs.key % $prime) as run
from signals
join own on own.sample_id = signals.sample_id
join fleet_runs on fleet_runs.run = signals.run
where signals.query = 0 and signals.member <> own and own.place * $drawn % $prime < $share * $prime
group by signals.sample_id
order by signals.sample_id

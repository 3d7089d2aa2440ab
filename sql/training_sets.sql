-- How far the training sets of other targets, shadow and reference runs agree with the target's.
-- Parameters: $target  [run]  the run under attack
--             $every   [whole number; default 1]  1 for all samples, K for those whose number is divisible by K
-- Grain: one row a (other run) with signals: n samples of the audit pool that both know, of which ours are in the target's
-- training set, theirs in the other's and shared in both.
with own as (
  select signals.sample_id, bool_or(signals.member) as own
  from signals
  join samples on samples.sample_id = signals.sample_id and samples.pool = 'audit'
  where signals.run = $target and signals.query = 0 and signals.sample_id % $every = 0
  group by signals.sample_id
)
select signals.run,
       count(*) as n,
       count(*) filter (where own) as ours,
       count(*) filter (where signals.member) as theirs,
       count(*) filter (where own and signals.member) as shared
from signals
join own on own.sample_id = signals.sample_id
where signals.query = 0 and signals.run <> $target
  and signals.run in (select run from runs where role in ('shadow', 'reference', 'target'))
group by signals.run
order by signals.run

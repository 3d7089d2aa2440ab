-- The mean loss of each sample under shadow models that were not trained on it, as it is (query 0): how hard it is,
-- whatever the target learnt.
-- Parameters: $target  [run]  the run under attack
--             $share   [share; default 1]  how many of the samples to look at; which ones is drawn by their ids, the same each time
-- Grain: one row a sample of the audit pool that the target has signals of and some shadow model was not trained on;
-- member is of the target. Losses that are not finite are left out.
with attacked as (
  select signals.sample_id, signals.member
  from signals
  join samples on samples.sample_id = signals.sample_id and samples.pool = 'audit'
  where signals.run = $target and signals.query = 0
    and is_drawn(signals.sample_id, $share)
)
select attacked.sample_id,
       any_value(attacked.member) as member,
       avg(signals.loss::double) as loss,
       count(*) as n_out
from attacked
join signals on signals.sample_id = attacked.sample_id
where signals.query = 0 and not signals.member and isfinite(signals.loss)
  and is_drawn(signals.sample_id, $share)
  and signals.run <> $target and signals.run in (select run from runs where role = 'shadow')
group by attacked.sample_id
order by attacked.sample_id

-- Calibrated loss (Sablayrolles et al. 2019; Watson et al. 2022): how far the target's loss lies under what other runs
-- lose on the sample, as it is (query 0).
-- Parameters: $target  [run]  the run under attack, left out of its own calibration
--             $tau     ['both', 'out'; default 'both']  mean of the mean losses with and without the sample, or mean without it
-- Grain: one row a sample of the audit pool that the target has signals of; score is tau - loss, NULL where a side
-- has no run. Losses of other runs that are not finite are left out.
with asked as (
  select sample_id from samples where pool = 'audit'
),
attacked as (
  select signals.sample_id, signals.member, signals.loss::double as loss
  from signals
  join asked on asked.sample_id = signals.sample_id
  where signals.run = $target and signals.query = 0
),
sides as (
  select sample_id,
         count(*) filter (where member) as n_in,
         count(*) filter (where not member) as n_out,
         avg(loss::double) filter (where member) as mean_in,
         avg(loss::double) filter (where not member) as mean_out
  from signals
  where query = 0 and isfinite(loss)
    and run <> $target and run in (select run from runs where role in ('shadow', 'reference'))
  group by sample_id
),
calibrated as (
  select attacked.sample_id, attacked.member, attacked.loss, mean_in, mean_out,
         coalesce(n_in, 0) as n_in, coalesce(n_out, 0) as n_out,
         case $tau when 'out' then mean_out else (mean_in + mean_out) / 2 end as tau
  from attacked
  left join sides on sides.sample_id = attacked.sample_id
)
select sample_id, member,
       case when isfinite(loss) then tau - loss end as score,
       loss,
       tau,
       mean_in,
       mean_out,
       n_in,
       n_out
from calibrated
order by sample_id

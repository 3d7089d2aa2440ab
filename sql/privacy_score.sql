-- Privacy score (Carlini et al. 2022, section VII-B): d = |mean_in - mean_out| / (sd_in + sd_out) of phi over
-- shadow runs, on the sample as it is (query 0).
-- Parameters: $target  [run, ''; default '']  a run to leave out, '' for none
-- Grain: one row a sample of the audit pool; NULL where a side has fewer than two runs.
with sides as (
  select sample_id,
         count(*) filter (where member) as n_in,
         count(*) filter (where not member) as n_out,
         avg(phi) filter (where member) as mean_in,
         avg(phi) filter (where not member) as mean_out,
         stddev_pop(phi) filter (where member) as sd_in,
         stddev_pop(phi) filter (where not member) as sd_out
  from signals
  where query = 0 and run <> $target and run in (select run from runs where role = 'shadow')
  group by sample_id
),
asked as (
  select sample_id from samples where pool = 'audit'
)
select asked.sample_id,
       case when n_in > 1 and n_out > 1
            then abs(mean_in - mean_out) / sqrt(within_floor((sd_in + sd_out) * (sd_in + sd_out))) end as score,
       mean_in,
       mean_out,
       sd_in,
       sd_out,
       coalesce(n_in, 0) as n_in,
       coalesce(n_out, 0) as n_out
from asked
left join sides on sides.sample_id = asked.sample_id
order by asked.sample_id

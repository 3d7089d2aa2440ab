-- Hellinger distance between the Gaussians fitted to phi of the shadow runs with and without each sample, on the sample
-- as it is (query 0): H^2 = 1 - sqrt(2 s1 s2 / (s1^2 + s2^2)) exp(-(m1 - m2)^2 / (4 (s1^2 + s2^2))).
-- Parameters: $target  [run, ''; default '']  a run to leave out, '' for none
-- Grain: one row a sample of the audit pool; NULL where a side has fewer than two runs. by_chance is the H^2 to expect
-- of two fits to the same Gaussian: 1/(8 (n - 1)) a side for the means, and as much for the standard deviations.
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
spreads as (
  select *, sd_in * sd_in + sd_out * sd_out as spread
  from sides
  where n_in > 1 and n_out > 1
),
distances as (
  select sample_id,
         case when spread = 0 then (mean_in <> mean_out)::double
              else greatest(0, 1 - sqrt(2 * sd_in * sd_out / spread)
                                   * exp(-(mean_in - mean_out) * (mean_in - mean_out) / (4 * spread)))
         end as squared,
         (1.0 / (n_in - 1) + 1.0 / (n_out - 1)) / 4 as by_chance
  from spreads
)
select samples.sample_id,
       sqrt(squared) as score,
       squared,
       by_chance,
       coalesce(n_in, 0) as n_in,
       coalesce(n_out, 0) as n_out
from samples
left join sides on sides.sample_id = samples.sample_id
left join distances on distances.sample_id = samples.sample_id
where samples.pool = 'audit'
order by samples.sample_id

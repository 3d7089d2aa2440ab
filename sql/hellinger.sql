-- Hellinger distance between the Gaussians fitted to phi of the shadow runs with and without each sample, on the sample
-- as it is (query 0): H^2 = 1 - sqrt(2 s1 s2 / (s1^2 + s2^2)) exp(-(m1 - m2)^2 / (4 (s1^2 + s2^2))).
-- Parameters: $target  [run, ''; default '']  a run to leave out, '' for none
-- Grain: one row a sample of the audit pool; NULL where a side has fewer than two runs. by_chance is the H^2 to expect
-- of two fits to the same Gaussian: 1/(8 (n - 1)) a side for the means, and as much for the standard deviations. relabelled is
-- H^2 / by_chance between two groups of the same runs about as large, chosen by numbers that know nothing of membership.
with numbered as (
  select run, row_number() over (order by run) * 69621 % 2147483647 as number
  from runs
  where role = 'shadow' and run <> $target and run in (select run from signals)
),
points as (
  select signals.sample_id, signals.member, signals.phi,
         (signals.sample_id::bigint + 1) * 48271 % 2147483647 * numbered.number % 2147483647 as place
  from signals
  join numbered on numbered.run = signals.run
  where signals.query = 0
),
sides as (
  select sample_id,
         count(*) filter (where member) as n_in,
         count(*) filter (where not member) as n_out,
         avg(phi) filter (where member) as mean_in,
         avg(phi) filter (where not member) as mean_out,
         stddev_pop(phi) filter (where member) as sd_in,
         stddev_pop(phi) filter (where not member) as sd_out
  from points
  group by sample_id
),
drawn as (
  select points.sample_id, phi,
         place * (n_in + n_out) < n_in * 2147483647 as one
  from points
  join sides on sides.sample_id = points.sample_id
),
drawn_sides as (
  select sample_id,
         count(*) filter (where one) as n_in,
         count(*) filter (where not one) as n_out,
         avg(phi) filter (where one) as mean_in,
         avg(phi) filter (where not one) as mean_out,
         stddev_pop(phi) filter (where one) as sd_in,
         stddev_pop(phi) filter (where not one) as sd_out
  from drawn
  group by sample_id
),
groups as (
  select sample_id, 'members' as kind, n_in as n_1, n_out as n_2,
         mean_in as mean_1, mean_out as mean_2, sd_in as sd_1, sd_out as sd_2
  from sides
  union all
  select sample_id, 'drawn', n_in, n_out, mean_in, mean_out, sd_in, sd_out
  from drawn_sides
),
distances as (
  select sample_id, kind,
         case when sd_1 * sd_1 + sd_2 * sd_2 = 0 then (mean_1 <> mean_2)::double
              else greatest(0, 1 - sqrt(2 * sd_1 * sd_2 / (sd_1 * sd_1 + sd_2 * sd_2))
                                   * exp(-(mean_1 - mean_2) * (mean_1 - mean_2) / (4 * (sd_1 * sd_1 + sd_2 * sd_2))))
         end as squared,
         (1.0 / (n_1 - 1) + 1.0 / (n_2 - 1)) / 4 as by_chance
  from groups
  where n_1 > 1 and n_2 > 1
)
select samples.sample_id,
       sqrt(found.squared) as score,
       found.squared,
       found.by_chance,
       drawn_at_random.squared / drawn_at_random.by_chance as relabelled,
       coalesce(n_in, 0) as n_in,
       coalesce(n_out, 0) as n_out
from samples
left join sides on sides.sample_id = samples.sample_id
left join distances as found on found.sample_id = samples.sample_id and found.kind = 'members'
left join distances as drawn_at_random
  on drawn_at_random.sample_id = samples.sample_id and drawn_at_random.kind = 'drawn'
where samples.pool = 'audit'
order by samples.sample_id

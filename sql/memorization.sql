-- Memorization (Feldman & Zhang 2020): mem = Pr[correct | trained on it] - Pr[correct | not trained on it],
-- over shadow runs, on the sample as it is (query 0).
-- Parameters: $target  [run, ''; default '']  a run to leave out, '' for none
--             $of      ['correct', 'probability'; default 'correct']  is the label predicted, or p_y in place of that; losses
--                      that are NaN are left out
-- Grain: one row a sample of the audit pool; score is mem, NULL where a side has no run. The standard error
-- divides by n. The interval for 'correct' holds both Agresti & Caffo's (2000) and Newcombe's (1998, method 10), each of
-- which covers less than it says at some shares near 0 and 1; for 'probability' it is the normal one with unbiased
-- variances (-1 to 1 where a side has too few runs to say anything).
with outcomes as (
  select sample_id, member, case when $of = 'correct' then correct::double
              when not isnan(loss) then exp(-loss::double) end as outcome
  from signals
  where query = 0 and run <> $target and run in (select run from runs where role = 'shadow')
),
sides as (
  select sample_id,
         count(outcome) filter (where member) as n_in,
         count(outcome) filter (where not member) as n_out,
         avg(outcome) filter (where member) as mean_in,
         avg(outcome) filter (where not member) as mean_out,
         cast(sum(outcome) filter (where member) as bigint) as right_in,
         cast(sum(outcome) filter (where not member) as bigint) as right_out,
         var_pop(outcome) filter (where member) as var_in,
         var_pop(outcome) filter (where not member) as var_out
  from outcomes
  group by sample_id
),
estimates as (
  select sample_id, n_in, n_out, mean_in, mean_out,
         -- One division of whole numbers: equal differences of shares are equal, and 0.6 where they are 0.6.
         case when $of = 'correct' then cast(right_in * n_out - right_out * n_in as double) / nullif(n_in * n_out, 0)
              else mean_in - mean_out end as mem,
         sqrt(var_in / n_in + var_out / n_out) as se,
         case when $of = 'correct' then (n_in * mean_in + 1) / (n_in + 2) else mean_in end as middle_in,
         case when $of = 'correct' then (n_out * mean_out + 1) / (n_out + 2) else mean_out end as middle_out,
         case when $of = 'correct' then middle_in * (1 - middle_in) / (n_in + 2) else var_in / nullif(n_in - 1, 0) end as spread_in,
         case when $of = 'correct' then middle_out * (1 - middle_out) / (n_out + 2) else var_out / nullif(n_out - 1, 0) end as spread_out
  from sides
),
bounds as (
  select *,
         middle_in - middle_out - 1.959963984540054 * sqrt(spread_in + spread_out) as low,
         middle_in - middle_out + 1.959963984540054 * sqrt(spread_in + spread_out) as high,
         case when $of = 'correct' then mem - sqrt(power(mean_in - wilson_low(mean_in, n_in), 2)
                                                   + power(wilson_high(mean_out, n_out) - mean_out, 2)) end as other_low,
         case when $of = 'correct' then mem + sqrt(power(wilson_high(mean_in, n_in) - mean_in, 2)
                                                   + power(mean_out - wilson_low(mean_out, n_out), 2)) end as other_high
  from estimates
),
asked as (
  select sample_id from samples where pool = 'audit'
)
select asked.sample_id,
       mem as score,
       se,
       greatest(-1, least(low, other_low)) as ci_low,
       least(1, greatest(high, other_high)) as ci_high,
       mean_in,
       mean_out,
       coalesce(n_in, 0) as n_in,
       coalesce(n_out, 0) as n_out
from asked
left join bounds on bounds.sample_id = asked.sample_id
order by asked.sample_id

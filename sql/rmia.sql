-- RMIA (Zarifzadeh et al. 2024): the probability exp(-loss) that each side gives a sample's label: the target, a run that
-- stands in for it, and the mean over the other runs compared with, those with the sample and those without it.
-- Parameters: $target    [run]  the run under attack
--             $stand_in  [run, ''; default '']  a run on which to choose the parameter a as if it were the target; '' for none
--             $first_query, $last_query  [whole number]  the queries to read lie between these two, both included
-- Reads:  compared_runs  (run): shadow and reference runs without the target
-- Grain: one row a (sample of either pool, query, side), side being 'target', 'stand-in', 'in' or 'out'; log_mean is
-- the log of the mean probability over the side's n runs, -infinity where all their losses are infinite. A sample is audited,
-- of the population that ratios are held against, or, as the population's of group canary, neither.
with reference_runs as (
  select run from compared_runs where run <> $stand_in
),
sides as (
  select sample_id, query, member, count(*) as n, avg(exp(-loss::double)) as mean
  from signals
  where query between $first_query and $last_query
    and not isnan(loss) and run in (select run from reference_runs)
  group by sample_id, query, member
),
-- Probabilities so small that their mean is no full double any more: their logs, the largest taken out first. Such
-- losses are rare; where there are none, the files' statistics say so and nothing is read twice.
faint as (
  select signals.sample_id, signals.query, signals.member, signals.loss::double as loss,
         min(signals.loss::double) over (partition by signals.sample_id, signals.query, signals.member) as least
  from signals
  join sides on sides.sample_id = signals.sample_id and sides.query = signals.query and sides.member = signals.member
  where signals.loss > 600 and sides.mean < 1e-280 and signals.query between $first_query and $last_query
    and not isnan(signals.loss) and signals.run in (select run from reference_runs)
),
faint_sides as (
  select sample_id, query, member,
         case when isfinite(min(least)) then ln(avg(exp(case when isfinite(least) then least - loss else 0 end))) - min(least)
              else cast('-infinity' as double) end as log_mean
  from faint
  group by sample_id, query, member
),
answers as (
  select sides.sample_id, sides.query, case when sides.member then 'in' else 'out' end as side, sides.member, sides.n,
         case when faint_sides.sample_id is null then ln(sides.mean) else faint_sides.log_mean end as log_mean
  from sides
  left join faint_sides
    on faint_sides.sample_id = sides.sample_id and faint_sides.query = sides.query and faint_sides.member = sides.member
  union all
  select sample_id, query, case when run = $target then 'target' else 'stand-in' end as side, member, 1 as n,
         -loss::double as log_mean
  from signals
  where run in ($target, $stand_in) and query between $first_query and $last_query and not isnan(loss)
)
select answers.sample_id, answers.query, answers.side, answers.member,
       samples.pool = 'audit' as audited,
       samples.pool = 'population' and samples."group" is distinct from 'canary' as population,
       answers.n, answers.log_mean
from answers
join samples on samples.sample_id = answers.sample_id

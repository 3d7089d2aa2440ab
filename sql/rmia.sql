-- RMIA (Zarifzadeh et al. 2024): the probability that each side gives a sample's label: the target, a run that stands in
-- for it, and the mean over the other shadow and reference runs, those with the sample and those without it.
-- Parameters: $target    the run under attack
--             $stand_in  a run on which to choose the parameter a as if it were the target; '' for none
-- Grain: one row a (sample of either pool, query, side), side being 'target', 'stand-in', 'in' or 'out'; log_mean is
-- the log of the mean of exp(-loss) over the side's n runs, -infinity where all losses are infinite.
with answers as (
  select sample_id, query, member, loss::double as loss,
         case when run = $target then 'target' when run = $stand_in then 'stand-in'
              when member then 'in' else 'out' end as side
  from signals
  where not isnan(loss)
    and (run = $target or run in (select run from runs where role in ('shadow', 'reference')))
),
sides as (
  select sample_id, query, side, bool_or(member) as member,
         count(*) as n, avg(exp(-loss)) as mean, min(loss) as least
  from answers
  group by sample_id, query, side
),
-- Where every probability is so small that its exponential is no double any more, the largest is taken out first.
faint as (
  select answers.sample_id, answers.query, answers.side, avg(exp(sides.least - answers.loss)) as mean
  from answers
  join sides on sides.sample_id = answers.sample_id and sides.query = answers.query and sides.side = answers.side
  where answers.loss > 700 and sides.least > 700 and isfinite(sides.least)
  group by answers.sample_id, answers.query, answers.side
)
select sides.sample_id, sides.query, sides.side, sides.member,
       samples.pool = 'population' as population,
       sides.n,
       case when not isfinite(sides.least) then cast('-infinity' as double)
            when sides.least > 700 then ln(faint.mean) - sides.least
            else ln(sides.mean) end as log_mean
from sides
join samples on samples.sample_id = sides.sample_id
left join faint on faint.sample_id = sides.sample_id and faint.query = sides.query and faint.side = sides.side

-- Attack R (Ye et al. 2022): the target's loss on a sample among the losses that runs have on it without having
-- trained on it, as it is (query 0).
-- Parameters: $target  the run under attack, left out of its own reference
--             $interpolate  whether the share runs straight between reference losses (from 0 at loss 0)
-- Grain: one row a sample of the audit pool that the target has signals of; share is the share of its reference
-- losses at or under the target's, score = 1 - share, NULL where there is no such run or the loss is not finite.
with attacked as (
  select signals.sample_id, signals.member, signals.loss::double as loss
  from signals
  join samples on samples.sample_id = signals.sample_id and samples.pool = 'audit'
  where signals.run = $target and signals.query = 0
),
unseen as (
  select sample_id, loss::double as loss
  from signals
  where query = 0 and not member and not isnan(loss)
    and run <> $target and run in (select run from runs where role in ('shadow', 'reference'))
),
compared as (
  select attacked.sample_id, attacked.member, attacked.loss,
         count(unseen.loss) as n_reference,
         count(unseen.loss) filter (where unseen.loss <= attacked.loss) as below,
         max(unseen.loss) filter (where unseen.loss <= attacked.loss) as next_below,
         min(unseen.loss) filter (where unseen.loss > attacked.loss) as next_above
  from attacked
  left join unseen on unseen.sample_id = attacked.sample_id
  group by attacked.sample_id, attacked.member, attacked.loss
),
shares as (
  select sample_id, member, loss, n_reference,
         case when isfinite(loss) and n_reference > 0 then
           (below + case when $interpolate and isfinite(next_above) and loss > coalesce(next_below, 0)
                         then (loss - coalesce(next_below, 0)) / (next_above - coalesce(next_below, 0)) else 0 end)
           / n_reference end as share
  from compared
)
select sample_id, member,
       1 - share as score,
       share,
       n_reference,
       loss
from shares
order by sample_id

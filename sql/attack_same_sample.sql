-- Attacks R, D and L (Ye et al. 2022): the target's loss on a sample among the losses that other runs have on this very
-- sample, as it is (query 0). What these runs are is all that tells the three attacks apart.
-- Parameters: $target       [run]  the run under attack, never in its own reference
--             $interpolate  [true, false; default false]  whether the share runs straight between reference losses (from 0 at loss 0)
--             $most         [whole number]  how many of a sample's lowest reference losses to list, for thresholds
--             $first_sample [whole number; default 0]  the samples to look at lie between this one
--             $last_sample  [whole number; default 2147483647]  and this one, both included
-- Reads:  reference_runs (run, sample_id)  the runs to compare with; where sample_id is not NULL, on that sample alone
--         taught (run, sample_id)          samples that a run learnt from without being trained on their labels: its
--                                          loss on them is no reference
-- Grain: one row a sample of the audit pool, of these, that the target has signals of; share is the share of its reference
-- losses at or under the target's, score = 1 - share, NULL where there is no such run or the loss is not finite;
-- lowest are its $most lowest reference losses, ascending.
with attacked as (
  select signals.sample_id, signals.member, signals.loss::double as loss
  from signals
  join samples on samples.sample_id = signals.sample_id and samples.pool = 'audit'
  where signals.run = $target and signals.query = 0 and signals.sample_id between $first_sample and $last_sample
),
unseen as (
  select signals.sample_id, signals.loss::double as loss
  from signals
  join reference_runs on reference_runs.run = signals.run
  where signals.query = 0 and not signals.member and not isnan(signals.loss) and signals.run <> $target
    and signals.sample_id between $first_sample and $last_sample
    and (reference_runs.sample_id is null or reference_runs.sample_id = signals.sample_id)
    and not exists (
      select 1 from taught where taught.run = signals.run and taught.sample_id = signals.sample_id
    )
),
compared as (
  select attacked.sample_id, attacked.member, attacked.loss,
         count(unseen.loss) as n_reference,
         count(unseen.loss) filter (where unseen.loss <= attacked.loss) as below,
         max(unseen.loss) filter (where unseen.loss <= attacked.loss) as next_below,
         min(unseen.loss) filter (where unseen.loss > attacked.loss) as next_above,
         smallest(unseen.loss, $most) as lowest
  from attacked
  left join unseen on unseen.sample_id = attacked.sample_id
  group by attacked.sample_id, attacked.member, attacked.loss
),
shares as (
  select sample_id, member, loss, n_reference, lowest,
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
       loss,
       lowest
from shares
order by sample_id

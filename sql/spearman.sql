-- Spearman's rank correlation of two stored scores; ties share their mean rank.
-- Parameters: $first, $first_variant, $second, $second_variant  which scores
--             $target  the run they are about; scores about all runs alike count too
--             $among   'all', 'members' or 'non-members' of the target
-- Grain: one row: n samples with both scores, and rho (NULL where a score does not vary).
with membership as (
  select sample_id, bool_or(member) as member
  from signals where run = $target group by sample_id
),
sides as (
  select sample_id, score, analysis = $first and variant = $first_variant as is_first,
         analysis = $second and variant = $second_variant as is_second
  from scores
  where target in ($target, 'all') and score is not null
),
pairs as (
  select one.score as x, other.score as y
  from sides as one
  join sides as other on other.sample_id = one.sample_id
  left join membership on membership.sample_id = one.sample_id
  where one.is_first and other.is_second
    and ($among = 'all' or membership.member = ($among = 'members'))
),
ranks as (
  select rank() over (order by x) + (count(*) over (partition by x) - 1) / 2.0 as rank_x,
         rank() over (order by y) + (count(*) over (partition by y) - 1) / 2.0 as rank_y
  from pairs
)
select count(*) as n, corr(rank_x, rank_y) as rho
from ranks
